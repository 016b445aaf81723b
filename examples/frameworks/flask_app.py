"""Flask: actions are named by the rule of the URL, here /item/<int:n>.      python flask_app.py [PORT]"""

import sys
from wsgiref.simple_server import make_server

import flask
import profilomatic

profilomatic.add_destination(profilomatic.file_destination('flask_prof.log'))

app = flask.Flask(__name__)


@app.route('/item/<int:n>')
def item(n):
    return 'item %d' % n


app.wsgi_app = profilomatic.wsgi.wrap(app.wsgi_app)

if __name__ == '__main__':
    make_server('127.0.0.1', int(sys.argv[1] if len(sys.argv) > 1 else 8000), app).serve_forever()
