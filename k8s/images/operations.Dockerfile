# The `domicile` command, which keeps an edge's configuration. Build from the repository's root, with a Python image by digest:
#   docker build -f k8s/images/operations.Dockerfile --build-arg PYTHON=docker.io/library/python@sha256:... .
ARG PYTHON
FROM ${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1 SOURCE_DATE_EPOCH=1577836800
WORKDIR /src
COPY constraints.txt ./
COPY core core
COPY sdk sdk
COPY ops ops
RUN python -m venv /opt/domicile \
    && /opt/domicile/bin/python -m pip install -c constraints.txt ./core ./sdk ./ops \
    && python -m venv /opt/bill \
    && /opt/bill/bin/python -m pip install -c constraints.txt cyclonedx-bom \
    && /opt/bill/bin/cyclonedx-py environment --output-reproducible -o /opt/domicile/bom.cdx.json /opt/domicile \
    && /opt/domicile/bin/python -m pip uninstall --yes pip

FROM ${PYTHON}
COPY --from=build /opt/domicile /opt/domicile
ENV PATH=/opt/domicile/bin:/usr/local/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /var/lib/domicile
ENTRYPOINT ["domicile"]
CMD ["--help"]
