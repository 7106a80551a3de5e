# ipcspace: the manager, the CSI driver and webhook, the NRI plugin and runtime shim, the command line,
# and the library for both architectures.
#
#   docker build -t ipcspace .
#   docker buildx build --platform linux/amd64,linux/arm64 -t ipcspace .
#
# The base images are arguments, so that a mirror's, or those of a digest, can be taken. Go and gcc
# cross-compile: no stage is emulated.
ARG GOLANG=golang:1.26-bookworm

FROM --platform=${BUILDPLATFORM:-linux/amd64} ${GOLANG} AS build
RUN command -v aarch64-linux-gnu-gcc >/dev/null && command -v x86_64-linux-gnu-gcc >/dev/null || { \
	apt-get update -q && apt-get install -q -y --no-install-recommends make \
		gcc-x86-64-linux-gnu libc6-dev-amd64-cross gcc-aarch64-linux-gnu libc6-dev-arm64-cross && \
	rm -rf /var/lib/apt/lists/*; }
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=unknown
ARG TARGETARCH
RUN make image-files DESTDIR=/image VERSION=${VERSION} GOARCH=${TARGETARCH:-$(go env GOARCH)} \
	GO_LDFLAGS='-s -w' CC=x86_64-linux-gnu-gcc ARM64_CC=aarch64-linux-gnu-gcc

FROM scratch
ARG VERSION=unknown
LABEL org.opencontainers.image.title="ipcspace" \
	org.opencontainers.image.description="System V IPC in user space, for containers" \
	org.opencontainers.image.source="https://github.com/ipcspace/ipcspace" \
	org.opencontainers.image.licenses="Apache-2.0" \
	org.opencontainers.image.version="${VERSION}"
COPY --from=build /image /
ENV PATH=/bin
ENTRYPOINT ["/bin/ipcspace-manager"]
