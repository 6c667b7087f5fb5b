"""Loggers by name: what an operator's dictConfig does, with a folder that has a mistake."""

import logging.config
from pathlib import Path

import meshsdk

logging.config.dictConfig(
    {
        "version": 1,
        "formatters": {"named": {"format": "%(levelname)s %(name)s %(message)s"}},
        "handlers": {"out": {"class": "logging.StreamHandler", "formatter": "named", "stream": "ext://sys.stdout"}},
        "loggers": {"meshsdk": {"handlers": ["out"], "level": "INFO"}},
    }
)
Path("broken").mkdir()
Path("broken/mesh.yaml").write_text("apiVersion: v1\nkind: Service\nmetadata: {name: reviews}\nspec: {ports: 80}\n")
with meshsdk.Mesh(config="broken") as mesh:
    mesh.explain("GET", "http://reviews/")
    print("problem:", mesh.status()["problem"])
