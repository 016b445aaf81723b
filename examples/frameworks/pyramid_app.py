"""Pyramid: actions are named by the pattern of the route, here /item/{n}.      python pyramid_app.py [PORT]"""

import sys
from wsgiref.simple_server import make_server

import profilomatic
from pyramid.config import Configurator
from pyramid.response import Response

profilomatic.add_destination(profilomatic.file_destination('pyramid_prof.log'))


def item(request):
    return Response('item %s' % request.matchdict['n'])


with Configurator() as config:
    config.add_route('item', '/item/{n}')
    config.add_view(item, route_name='item')
    application = profilomatic.wsgi.wrap(config.make_wsgi_app())

if __name__ == '__main__':
    make_server('127.0.0.1', int(sys.argv[1] if len(sys.argv) > 1 else 8000), application).serve_forever()
