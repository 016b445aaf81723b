"""A small shop. Most of its pages are quick; three are slow, each for a reason of its own (see README.md)."""

from flask import Flask, abort, jsonify

from . import catalog, payment, stock, tax

app = Flask(__name__)


@app.get('/')
def home():
    rows = ''.join('<li><a href="/product/%d">%s</a></li>' % (p.id, p.name) for p in catalog.newest(12))
    return '<h1>The Shop</h1><ul>%s</ul>' % rows


@app.get('/product/<int:product_id>')
def product(product_id):
    found = catalog.find(product_id) or abort(404)
    return jsonify(id=found.id, name=found.name, price=found.price)


@app.get('/search/<word>')
def search(word):
    return jsonify([p.name for p in catalog.search(word)])


@app.get('/cart/<int:cart_id>')
def cart(cart_id):
    items = catalog.cart(cart_id)
    net = sum(p.price for p in items)
    return jsonify(net=net, tax=tax.of(items, country=catalog.country(cart_id)))


@app.get('/checkout/<int:cart_id>')
def checkout(cart_id):
    amount = sum(p.price for p in catalog.cart(cart_id))
    if not payment.charge(cart_id, amount):
        abort(402)
    return jsonify(paid=amount)


@app.get('/stock/<int:product_id>')
def in_stock(product_id):
    return jsonify(id=product_id, pieces=stock.pieces(product_id))


application = app  # the name that uWSGI looks for
