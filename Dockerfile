# One image for CPU and GPU: torch from the index brings its CUDA libraries along.
FROM python:3.11.13-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
ARG EXTRAS=gpu
WORKDIR /src
RUN python -m venv /opt/deer-reid
# What changes seldom comes first, so that a change of the code does not install torch again.
COPY pyproject.toml constraints.txt deploy/requirements.py ./
RUN python requirements.py pyproject.toml "$EXTRAS" > requirements.txt \
 && /opt/deer-reid/bin/pip install --constraint constraints.txt --requirement requirements.txt
COPY README.md LICENSE dagster.yaml workspace.yaml ./
COPY migrations migrations
COPY deer_reid_pipeline deer_reid_pipeline
RUN /opt/deer-reid/bin/pip install --no-deps .

FROM python:3.11.13-slim-bookworm
RUN useradd --uid 10001 --user-group --create-home --shell /usr/sbin/nologin deer-reid \
 && install --directory --owner deer-reid --group deer-reid --mode 0711 /data /drops /backups
COPY --from=build /opt/deer-reid /opt/deer-reid
COPY deploy/workspace.yaml /etc/deer-reid/workspace.yaml
ENV PATH=/opt/deer-reid/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DEER_REID_HOME=/data \
    DAGSTER_HOME=/data/dagster \
    DAGSTER_DISABLE_TELEMETRY=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER deer-reid
WORKDIR /home/deer-reid
VOLUME /data
CMD ["deer-reid", "doctor"]
