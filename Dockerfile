# The proxy alone, its hot path compiled: no compiler, no tests, no Kafka. Mount the configuration at /etc/mqk/mqk.toml.
FROM python:3.11-slim-bookworm AS build
RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends gcc libc6-dev
WORKDIR /build
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY proxy proxy
RUN python -m venv /opt/mqk
RUN HATCH_BUILD_HOOK_ENABLE_MYPYC=1 /opt/mqk/bin/pip wheel --quiet --no-cache-dir --no-deps --wheel-dir dist .
RUN /opt/mqk/bin/pip install --quiet --no-cache-dir --constraint requirements.lock \
    "$(ls dist/*.whl)[fast,regex]"

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin mqk
COPY --from=build /opt/mqk /opt/mqk
ENV PATH=/opt/mqk/bin:$PATH PYTHONUNBUFFERED=1
USER 10001
EXPOSE 1883
# The admin port of the default configuration: a configuration with another admin.bind needs another check.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "import http.client as http; c = http.HTTPConnection('127.0.0.1', 8080, timeout=2); c.request('GET', '/livez'); raise SystemExit(c.getresponse().status != 200)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["mqk", "serve"]
CMD ["--config", "/etc/mqk/mqk.toml"]
