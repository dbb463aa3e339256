# Stands for qdrant/qdrant where no registry answers: the real engine behind the lab's REST front, laid out as the real image is -
# working directory, volumes, ports, the entrypoint that does not pass signals on, no health check, root as its user.
ARG BASE
FROM ${BASE}
WORKDIR /qdrant
COPY qdrant entrypoint.sh /qdrant/
COPY lab/ /opt/lab/
# Compiled here once; otherwise each start of a container, and a scenario has several, compiles it anew for two seconds.
RUN PYTHONDONTWRITEBYTECODE="" python -c "import lab.qdrant.__main__"
ENV TZ=Etc/UTC \
    RUN_MODE=production \
    QDRANT__SERVICE__HOST=0.0.0.0 \
    QDRANT__STORAGE__STORAGE_PATH=/qdrant/storage \
    QDRANT__STORAGE__SNAPSHOTS_PATH=/qdrant/snapshots \
    LAB_QDRANT_OUTLIVE_PARENT=1
ARG VERSION
ENV LAB_QDRANT_VERSION=${VERSION}
EXPOSE 6333 6334
CMD ["./entrypoint.sh"]
