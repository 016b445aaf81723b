"""FastAPI, with nothing of the profiler in it:

    profilomatic run -- uvicorn fastapi_app:app

A coroutine, a function that FastAPI calls in a thread, and a child task: the time of each, computing or awaiting, is
found under its own route.
"""

import asyncio
import hashlib

from fastapi import FastAPI

app = FastAPI()


def digest(rounds):
    value = b''
    for _ in range(rounds):
        value = hashlib.sha256(value * 64).digest()
    return value.hex()


async def fetch(what):
    await asyncio.sleep(0.02)  # stands for a database
    return what


@app.get('/item/{item}')
async def item(item: int):
    return {'item': await fetch(item)}


@app.get('/digest/{rounds}')
def in_a_thread(rounds: int):
    return {'digest': digest(rounds)}


@app.get('/both')
async def both():
    first, second = await asyncio.gather(fetch('first'), asyncio.to_thread(digest, 200))
    return [first, second]
