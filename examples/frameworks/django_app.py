"""Django, in one file: actions are named by the route, here /item/<int:n>.      python django_app.py [PORT]

In a project of several files the last lines but two stand in its wsgi.py.
"""

import sys
from wsgiref.simple_server import make_server

import profilomatic
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path

profilomatic.add_destination(profilomatic.file_destination('django_prof.log'))

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=['*'], SECRET_KEY='an example')

urlpatterns = [path('item/<int:n>', lambda request, n: HttpResponse('item %d' % n))]

application = profilomatic.wsgi.wrap(get_wsgi_application())

if __name__ == '__main__':
    make_server('127.0.0.1', int(sys.argv[1] if len(sys.argv) > 1 else 8000), application).serve_forever()
