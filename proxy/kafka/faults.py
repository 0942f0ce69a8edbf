"""Why a cluster will not have us, in the words of the settings: aiokafka only says that it did not get in.

Asked after a failure, by going once more to each broker and looking at how it answers. What is to be done about it is
the business of those who ask.
"""

import asyncio
import ssl
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from aiokafka import errors as kafka_errors
from aiokafka.conn import AIOKafkaConnection, OAuthAuthenticator, collect_hosts
from aiokafka.protocol.metadata import MetadataRequest

from proxy import limits

#: What OpenSSL says of a certificate that is good, and another host's: X509_V_ERR_HOSTNAME_MISMATCH and _IP_ADDRESS_.
_OTHER_HOST: Final = {62, 64}
#: Options of aiokafka's clients that are not of a connection.
_NOT_OF_A_CONNECTION: Final = {"bootstrap_servers"}


class Fault(NamedTuple):
    """A setting under `kafka.client`, what is wrong with it, and whether waiting cannot mend it."""

    setting: str
    message: str
    final: bool


class FaultError(kafka_errors.KafkaError):  # type: ignore[misc]
    """Raised into aiokafka, which takes it for a broker that cannot be reached."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(f"{fault.setting}: {fault.message}")
        self.fault = fault


async def find_fault(options: Mapping[str, Any]) -> Fault | None:
    """What keeps a client with these options out; None: nothing that a setting could mend, as far as can be told."""
    found = None
    try:
        async with asyncio.timeout(limits.KAFKA_REQUEST_SECONDS_MAX):
            for host, port, _ in collect_hosts(options["bootstrap_servers"], randomize=False):
                fault = await _knock(host, port, options)
                if fault and fault.final:
                    return fault
                found = found or fault
    except TimeoutError:
        return found
    return found


async def _knock(host: str, port: int, options: Mapping[str, Any]) -> Fault | None:
    """Goes in as aiokafka does: the versions, the login, then a request that only the welcome may make."""
    own = {name: value for name, value in options.items() if name not in _NOT_OF_A_CONNECTION}
    connection = _Connection(host, port, **own)
    try:
        await connection.connect()  # One that fails closes itself.
        try:
            await connection.send(MetadataRequest([]))
        finally:
            await asyncio.wait([connection.close()], timeout=limits.PRODUCER_STOP_SECONDS_MAX)
    except (kafka_errors.KafkaError, OSError) as error:
        return _explain(error, host, f"{host}:{port}", options)
    return None


class _Connection(AIOKafkaConnection):  # type: ignore[misc]
    """Hears how a broker refuses a token; aiokafka does not listen, and is hung up on at its next request."""

    def authenticator_oauth(self) -> OAuthAuthenticator:
        return _TokenAuthenticator(sasl_oauth_token_provider=self._sasl_oauth_token_provider)


class _TokenAuthenticator(OAuthAuthenticator):  # type: ignore[misc]
    async def step(self, payload: bytes | None) -> Any:
        if payload:
            said = payload.decode(errors="replace")[: limits.PEER_WORDS_MAX]
            raise FaultError(Fault("sasl_oauth_client_id", f"the broker refuses this client's token: {said}", True))
        return await super().step(payload)


def _explain(error: BaseException, host: str, broker: str, options: Mapping[str, Any]) -> Fault | None:
    for cause in _causes(error):
        if isinstance(cause, FaultError):
            return cause.fault
        if isinstance(cause, ssl.SSLError):
            return _explain_tls(cause, host, broker)
        if isinstance(cause, kafka_errors.SaslAuthenticationFailed):
            setting = "sasl_oauth_client_id" if options["sasl_mechanism"] == "OAUTHBEARER" else "sasl_plain_password"
            return Fault(setting, f"broker {broker} refuses the login: {cause.args[0]}", True)
        if isinstance(cause, kafka_errors.UnsupportedSaslMechanismError):
            return Fault("sasl_mechanism", f"broker {broker} does not offer {options['sasl_mechanism']}", True)
        if isinstance(cause, kafka_errors.IllegalSaslStateError):
            return Fault("security_protocol", f"broker {broker} takes no login", True)
        if isinstance(cause, EOFError | ConnectionResetError):
            # What a broker does that expects something else; and one that is shutting down.
            protocol = options.get("security_protocol", "PLAINTEXT")
            return Fault("security_protocol", f"broker {broker} hangs up on {protocol}", False)
    return None


def _explain_tls(error: ssl.SSLError, host: str, broker: str) -> Fault:
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _OTHER_HOST:
            return Fault("ssl_check_hostname", f"the certificate of broker {broker} is not for {host}", True)
        return Fault("ssl_cafile", f"the certificate of broker {broker} is not trusted: {error.verify_message}", True)
    reason = error.reason or str(error)
    if "ALERT" in reason:
        return Fault("ssl_certfile", f"broker {broker} refuses our certificate, or the lack of one: {reason}", True)
    return Fault("security_protocol", f"no TLS with broker {broker}: {reason}", False)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
