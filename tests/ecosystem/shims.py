"""What a server would do, for tests that call applications themselves: the application is wrapped, and of the response
the header X-Task-UUID goes no further, as if it had gone out to a client."""

import functools

import profilomatic

requests = 0  # that have gone through a wrapper or into an action


def _count():
    global requests
    requests += 1


def _without_our_header(start_response):
    @functools.wraps(start_response, updated=())
    def start(status, headers, *rest):
        if isinstance(headers, list):
            headers = [header for header in headers if header[0] != 'X-Task-UUID']
        return start_response(status, headers, *rest)

    return start


def served(application):
    """The application as a server has it."""
    wrapped = profilomatic.wsgi.wrap(application)

    def serve(environ, start_response):
        _count()
        return wrapped(environ, _without_our_header(start_response))

    return serve


def _werkzeug(module):
    original = module.run_wsgi_app

    @functools.wraps(original)
    def run_wsgi_app(app, *args, **kwargs):
        return original(served(app), *args, **kwargs)

    module.run_wsgi_app = run_wsgi_app


def _django(module):
    original = module.WSGIHandler.__call__

    @functools.wraps(original)
    def call(self, environ, start_response):
        return served(functools.partial(original, self))(environ, start_response)

    module.WSGIHandler.__call__ = call


def _django_client(module):
    """Its handler takes an environ and returns a response, without WSGI: an action of our own does for it."""
    original = module.ClientHandler.__call__

    @functools.wraps(original)
    def call(self, environ):
        _count()
        with profilomatic.action('client'):
            return original(self, environ)

    module.ClientHandler.__call__ = call


def _eliot(module):
    """Patched as soon as it is there, which is the hardest moment: before the application adds a destination."""
    import profilomatic.eliot as ours

    original = ours._Destination._begin

    def begin(self, key, message):
        _count()
        original(self, key, message)

    ours._Destination._begin = begin
    ours.patch()

    # Most of the tests log to a list of their own: what they log is shown to us as well.
    write = module.MemoryLogger.write

    @functools.wraps(write)
    def shown(self, dictionary, serializer=None):
        ours._destination(dict(dictionary))
        return write(self, dictionary, serializer)

    module.MemoryLogger.write = shown


def install():
    from profilomatic._imports import after_import

    after_import(
        {
            'eliot': _eliot,
            'werkzeug.test': _werkzeug,
            'django.core.handlers.wsgi': _django,
            'django.test.client': _django_client,
        }
    )
