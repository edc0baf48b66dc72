"""An object store of this machine: moto in the place of S3."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import pytest
import s3fs
from moto.server import ThreadedMotoServer


@contextmanager
def s3_replaced(bucket: str) -> Iterator[Any]:
    """Let moto replace S3, with a bucket; give a client of it. The environment of this process leads to it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with pytest.MonkeyPatch.context() as environment:
        for name, value in settings.items():
            environment.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket=bucket)
        s3fs.S3FileSystem.clear_instance_cache()  # They have the address of an earlier server.
        yield client
        client.close()
    server.stop()
