"""The Open Inference Protocol's bytes <-> arrays: JSON, its binary tensors, gRPC's messages; pure."""
