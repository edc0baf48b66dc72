ARG PYTHON=3.13

# Build the wheel and install it, with the pinned versions, into a virtual environment of its own.
FROM python:${PYTHON}-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY constraints.txt ./
RUN pip install -c constraints.txt build hatchling && python -m venv /opt/etl
COPY pyproject.toml README.md CHANGELOG.md LICENSE ./
COPY etl/ etl/
COPY sql/ sql/
COPY config/ config/
COPY scripts/etl-retry scripts/
RUN python -m build --wheel --no-isolation --outdir /dist \
    && /opt/etl/bin/pip install -c constraints.txt "$(echo /dist/*.whl)[serve,collect]"

# The image that runs: no build tools, no checkout, no secret, and a user without privileges.
FROM python:${PYTHON}-slim
RUN groupadd --gid 10001 etl \
    && useradd --uid 10001 --gid etl --no-create-home --home-dir /data --shell /usr/sbin/nologin etl \
    && install --directory --owner=etl --group=etl --mode=0755 /data \
    && install --directory --owner=etl --group=etl --mode=0700 /data/failed
COPY --from=build /opt/etl /opt/etl
ENV PATH=/opt/etl/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /data
# By number, so that Kubernetes can see that it is not root.
USER 10001:10001
# Rejected records outlive the container.
VOLUME ["/data/failed"]
# Of the listener alone: a load ends by itself, and its exit code tells how.
HEALTHCHECK --interval=60s --timeout=20s --start-period=30s --retries=3 \
    CMD if grep -qa listen /proc/1/cmdline; then etl listen --check; fi
ENTRYPOINT ["etl"]
CMD ["--help"]
