"""HOST:PORT, as every address is written here."""


def host_port(host: str, port: int | str) -> str:
    """An address; that of IPv6 is put into brackets, as its own colons would be taken for the one before the port."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"
