# syntax=docker/dockerfile:1.7
# The host with the sample agents. Build: docker build -t agent-host .

FROM rust:1.95.0-bookworm AS build
RUN rustup target add wasm32-wasip2
WORKDIR /source
COPY . .
# The caches outlive the build, so a second one compiles only what changed; what is needed later is copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/source/target \
    cargo build --locked --release --package agent-host \
    && cargo xtask agents \
    && mkdir -p /out/agents \
    && cp target/release/agent-host /out/ \
    && for manifest in agents/*/agent.toml; do \
           folder=/out/"$(dirname "$manifest")"; mkdir -p "$folder"; \
           cp "$manifest" "$(dirname "$manifest")"/*.wasm "$folder"/; \
           if [ -d "$(dirname "$manifest")/migrations" ]; then cp -r "$(dirname "$manifest")/migrations" "$folder"/; fi; \
       done

FROM debian:12.12-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/lib/agent-host --create-home agent-host
COPY --from=build /out/agent-host /usr/local/bin/agent-host
COPY --from=build /out/agents /usr/share/agent-host/agents
USER agent-host
WORKDIR /var/lib/agent-host
ENV AGENT_HOST_AGENTS_DIR=/usr/share/agent-host/agents \
    AGENT_HOST_DATA_DIR=/var/lib/agent-host
VOLUME /var/lib/agent-host
EXPOSE 8080
# By bash itself: the image has no HTTP client.
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=12 CMD ["bash", "-c", \
    "exec 3<>/dev/tcp/127.0.0.1/8080 && printf 'GET /readyz HTTP/1.0\\r\\nHost: 127.0.0.1:8080\\r\\n\\r\\n' >&3 && head -1 <&3 | grep -q ' 200 '"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["agent-host"]
CMD ["serve"]
