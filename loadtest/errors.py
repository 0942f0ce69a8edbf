"""What this tool can fail with: wrong use, a server that breaks MQTT, a run that could not be carried out."""


class UsageError(Exception):
    """A flag is wrong; the message names it."""


class LoadError(Exception):
    """The run or the check could not be carried out, for instance because nothing listens at the target."""


class ConnectRefused(Exception):
    """The server answered CONNECT with a reason to go away."""


class MqttViolation(Exception):
    """The server sent something MQTT does not allow; the connection is closed and the violation counted."""
