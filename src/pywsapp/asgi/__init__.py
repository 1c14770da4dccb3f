"""ASGI: an App inside of a website, or on another server.

    uvicorn module:app                                    any ASGI server runs an App
    site.mount("/ws", app)                                in FastAPI, Starlette and Litestar
    FastAPI(lifespan=app.lifespan)                        starts and stops the App with the site

`App.__call__` is the ASGI application, and `App.lifespan` is for sites that do not pass lifespan events on to what is
mounted in them. `site_user` is an `authenticate` for the user that the site has found.
"""

from pywsapp.asgi.scope import site_user

__all__ = ("site_user",)
