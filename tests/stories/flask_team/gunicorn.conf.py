import os

port = int(os.environ.get("PORT", "8443"))
bind = f"127.0.0.1:{port}"
workers = 2
threads = 8
certfile = "/dev/null"  # switches TLS on; the certificates are the mesh's


def ssl_context(config, default_factory):
    from orders import mesh

    return mesh.ssl_context(port=port)


def post_worker_init(worker):
    from orders import mesh

    mesh.ssl_context(port=port)  # a worker without policy for its port ends here, and gunicorn with it
