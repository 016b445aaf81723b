"""A certificate authority of one's own, by openssl, for servers on this machine."""

import subprocess

CA = '-x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -addext keyUsage=critical,keyCertSign,cRLSign'
REQUEST = '-newkey rsa:2048 -nodes -keyout {0}.key -out {0}.csr -subj /CN={0}'
SIGNED = '-req -in {0}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {0}.pem -days 2 -extfile names'


def make_authority(folder):
    """The CA in `folder`, a server certificate for localhost, and one for a client."""

    def openssl(verb, words, *more):
        subprocess.run(['openssl', verb, *words.split(), *more], cwd=folder, check=True, capture_output=True)

    (folder / 'names').write_text('subjectAltName=DNS:localhost\n')
    openssl('req', CA, '-subj', '/CN=private test authority')
    for name in ('server', 'client'):
        openssl('req', REQUEST.format(name))
        openssl('x509', SIGNED.format(name))
    return folder
