"""How much of a card is used where nobody says: one number for embedding, training, Ray and the launcher. No torch."""

CARD_SHARE = 0.75
"""Of a card's memory, where DEER_REID_VRAM_MB says nothing."""
