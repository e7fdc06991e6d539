# One image for Dataflow: it starts flex templates, and it is what workers run. Build it at the top of the repository:
#   docker build -t europe-west4-docker.pkg.dev/MY-PROJECT/lavabeam/lavabeam:0.1.0 .
# For steps with a model of their own (caption), and with your recipes and models:
#   docker build --build-arg EXTRAS=gcp,train -t ... .
# Python and Beam are the versions that constraints.txt was made with; a test compares them.
FROM python:3.11-slim AS build
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim
# What opencv-python-headless and torch link to, and certificates for downloads.
RUN apt-get update \
    && apt-get install --no-install-recommends -y ca-certificates libglib2.0-0 libgomp1 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=apache/beam_python3.11_sdk:2.77.0 /opt/apache/beam /opt/apache/beam
COPY --from=gcr.io/dataflow-templates-base/python311-template-launcher-base:latest \
    /opt/google/dataflow/python_template_launcher /opt/google/dataflow/python_template_launcher

ARG EXTRAS=gcp
COPY constraints.txt /tmp/constraints.txt
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir -c /tmp/constraints.txt "$(ls /wheels/lavabeam-*.whl)[${EXTRAS}]" \
    && pip check \
    && rm -rf /wheels /tmp/constraints.txt

RUN mkdir /template && printf 'from lavabeam.flex import main\n\nmain()\n' > /template/main.py
ENV FLEX_TEMPLATE_PYTHON_PY_FILE=/template/main.py

# Nothing here needs root; workers write to the home folder and to /tmp.
RUN useradd --create-home --uid 1000 lavabeam
USER lavabeam
WORKDIR /home/lavabeam

# Beam's own entrypoint. The launcher of flex templates and `docker run --entrypoint lavabeam` name theirs.
ENTRYPOINT ["/opt/apache/beam/boot"]
