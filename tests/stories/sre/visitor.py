"""A process that asks reviews ten times a second, and prints what comes. `MESH=no` has it do so without a mesh."""

import os
import sys
import threading
import time
from datetime import datetime

import httpx

if os.environ.get("MESH") == "no":
    client = httpx.Client()
else:
    import meshsdk

    mesh = meshsdk.Mesh(unknown_hosts=os.environ.get("UNKNOWN_HOSTS", "allow"))
    client = mesh.client()

while True:
    try:
        names = ", ".join(sorted(thread.name for thread in threading.enumerate()))
        print(datetime.now().time(), client.get(sys.argv[1]).status_code, f"threads: {names}", flush=True)
    except httpx.HTTPError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
    time.sleep(0.1)
