"""gRPC: the original's service unchanged on the wire, and our own, beside HTTP in one event loop.

`*_pb2*.py` and `*.pyi` are generated from the protos beside them and committed, so that nobody needs a compiler to
install Fireside; a test compiles the protos again and compares. To make them anew, with the oldest grpcio-tools that
pyproject.toml allows:

    python -m grpc_tools.protoc -I src --python_out=src --pyi_out=src --grpc_python_out=src \\
        src/fireside/serve/grpc/cosyvoice.proto src/fireside/serve/grpc/fireside.proto
"""
