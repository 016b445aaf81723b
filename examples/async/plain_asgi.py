"""Any ASGI application, wrapped by hand, and an action of its own around a part of the work:

profilomatic-aggregator --directory DIR &      # or let the first worker start one
uvicorn plain_asgi:app
"""

import asyncio

import profilomatic

profilomatic.add_destination(profilomatic.file_destination('profile.log'))


@profilomatic.asgi.wrap
async def app(scope, receive, send):
    if scope['type'] != 'http':
        return
    with profilomatic.action('answer:make'):
        await asyncio.sleep(0.02)
        body = profilomatic.current_task_uuid().encode()
    headers = [(b'content-type', b'text/plain'), (b'content-length', str(len(body)).encode())]
    await send({'type': 'http.response.start', 'status': 200, 'headers': headers})
    await send({'type': 'http.response.body', 'body': body})
