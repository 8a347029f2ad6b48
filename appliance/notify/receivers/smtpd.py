"""A mail server that tells each mail it takes as one line of JSON. It is Debian's aiosmtpd; here is only its configuration.

Arguments: mode (starttls, tls, plain), port, certificate, key, user, password, and a file: as long as that has text, this is
the answer to every mail.
"""
import asyncio
import json
import os
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult

mode, port, cert, key, user, password, failure = sys.argv[1:]


class Handler:
    async def handle_DATA(self, server, session, envelope):
        if os.path.exists(failure):
            with open(failure) as f:
                text = f.read().strip()
            if text:
                print(json.dumps({"refused": text}), flush=True)
                return text
        print(json.dumps({
            "from": envelope.mail_from, "to": envelope.rcpt_tos, "data": envelope.content.decode("utf-8"),
            "tls": session.ssl is not None or mode == "tls", "authenticated": bool(session.authenticated),
        }), flush=True)
        return "250 2.0.0 kept as number 7"


def authenticate(server, session, envelope, mechanism, data):
    good = data.login == user.encode() and data.password == password.encode()
    return AuthResult(success=good, handled=False)


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(cert, key)


def protocol():
    if mode == "plain":
        return SMTP(Handler(), hostname="mail.test")
    if mode == "tls":
        return SMTP(Handler(), hostname="mail.test", auth_required=True, auth_require_tls=False, authenticator=authenticate)
    return SMTP(Handler(), hostname="mail.test", tls_context=context, require_starttls=True, auth_required=True,
                authenticator=authenticate)


async def main():
    server = await asyncio.get_running_loop().create_server(
        protocol, "127.0.0.1", int(port), ssl=context if mode == "tls" else None)
    print(json.dumps({"ready": True}), flush=True)
    await server.serve_forever()


asyncio.run(main())
