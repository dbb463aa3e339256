#!/bin/bash
# As in the real image, the shell stays process 1 and ends at SIGTERM without waiting for Qdrant.
./qdrant
