# A service of one model: docker build -t fullyconv . && docker run -p 8000:8000 -v $PWD/runs/photos/model:/model:ro -e FULLYCONV_API_KEY=… fullyconv
FROM python:3.12-slim
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
# An index with PyTorch's builds for CPUs (--build-arg INDEX=…) saves gigabytes of CUDA.
ARG INDEX=
RUN pip install --no-cache-dir ${INDEX:+--extra-index-url "$INDEX"} --constraint constraints.txt '.[serve,openvino]' \
    && useradd --create-home service
USER service
ENV NUMBA_CACHE_DIR=/tmp/numba
EXPOSE 8000
HEALTHCHECK CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=5)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["fullyconv", "serve", "--host", "0.0.0.0"]
CMD ["/model"]
