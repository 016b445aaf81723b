"""Bottle: actions are named by the rule of the route, here /item/<n:int>.      python bottle_app.py [PORT]"""

import sys
from wsgiref.simple_server import make_server

import bottle
import profilomatic

profilomatic.add_destination(profilomatic.file_destination('bottle_prof.log'))

app = bottle.Bottle()


@app.route('/item/<n:int>')
def item(n):
    return 'item %d' % n


application = profilomatic.wsgi.wrap(app)

if __name__ == '__main__':
    make_server('127.0.0.1', int(sys.argv[1] if len(sys.argv) > 1 else 8000), application).serve_forever()
