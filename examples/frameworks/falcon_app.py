"""Falcon: actions are named by the template of the URI, here /item/{n:int}.      python falcon_app.py [PORT]"""

import sys
from wsgiref.simple_server import make_server

import falcon
import profilomatic

profilomatic.add_destination(profilomatic.file_destination('falcon_prof.log'))


class Item:
    def on_get(self, request, response, n):
        response.text = 'item %d' % n


app = falcon.App()
app.add_route('/item/{n:int}', Item())
application = profilomatic.wsgi.wrap(app)

if __name__ == '__main__':
    make_server('127.0.0.1', int(sys.argv[1] if len(sys.argv) > 1 else 8000), application).serve_forever()
