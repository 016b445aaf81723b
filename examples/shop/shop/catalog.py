"""What the shop sells, and who put what in a cart. Everything is made up, the same in every process."""

import random
from collections import namedtuple

Product = namedtuple('Product', 'id name price category')

COUNTRIES = ['AT', 'BE', 'DE', 'DK', 'ES', 'FI', 'FR', 'IE', 'IT', 'NL', 'PL', 'SE']
CATEGORIES = 400

_random = random.Random(1)
_COLOURS = ['red', 'green', 'blue', 'grey', 'amber', 'violet']
_THINGS = ['mug', 'lamp', 'chair', 'kettle', 'clock', 'basket', 'rug', 'frame']
_PRODUCTS = {
    n: Product(
        n, '%s %s' % (_random.choice(_COLOURS), _random.choice(_THINGS)), _random.randrange(200, 9000), n % CATEGORIES
    )
    for n in range(1, 501)
}


def find(product_id):
    return _PRODUCTS.get(product_id)


def newest(count):
    return [_PRODUCTS[n] for n in range(len(_PRODUCTS), len(_PRODUCTS) - count, -1)]


def search(word):
    return [p for p in _PRODUCTS.values() if word in p.name][:20]


def cart(cart_id):
    """The products in a cart: 2 to 9 of them."""
    chooser = random.Random(cart_id)
    return [_PRODUCTS[chooser.randint(1, len(_PRODUCTS))] for _ in range(2 + cart_id % 8)]


def country(cart_id):
    return COUNTRIES[cart_id % len(COUNTRIES)]
