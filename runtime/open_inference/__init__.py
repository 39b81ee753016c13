"""The Open Inference Protocol (KServe's v2), over HTTP and gRPC. Imported by the first who speaks it."""
