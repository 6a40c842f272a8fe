"""The science of re-identification: arrays in, arrays out. No Dagster, no SQL, no files, no torch."""
