"""The control API: HTTP and JSON on a unix socket. The only importer of aiohttp.web."""
