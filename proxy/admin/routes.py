"""Every request of the admin API. The routes, the document and the tests of who may ask are made from this table."""

from typing import Any, Final

from proxy.admin import bans, clients, cluster, models, openapi
from proxy.admin.api import Asked, Endpoint
from proxy.admin.parts import Parts

_CLIENT: Final = "/v1/clients/{clientid}"


async def show_document(_parts: Parts, _asked: Asked) -> dict[str, Any]:
    return openapi.document(ENDPOINTS)


ENDPOINTS: Final = (
    Endpoint(
        "GET", "/v1/clients", "read", "Who is connected or has a session, in the cluster", clients.list_clients,
        query=models.ClientsQuery, answer=models.ClientsOut, problems=(422,),
    ),
    Endpoint(
        "GET", _CLIENT, "read", "One client; its epoch as ETag", clients.show_client,
        answer=models.ClientOut, problems=(400, 404),
    ),
    Endpoint(
        "DELETE", _CLIENT, "write", "Disconnect a client; with If-Match only that connection", clients.kick_client,
        answer=models.ResultOut, problems=(400, 404, 412), takes_if_match=True,
    ),
    Endpoint(
        "POST", f"{_CLIENT}/publish", "write", "Send a message to a client and wait for the outcome",
        clients.publish_to_client, body=models.MessageRequest, answer=models.ResultOut,
    ),
    Endpoint(
        "POST", "/v1/publish", "write", "Send a message to all who have subscribed to its topic", clients.publish,
        body=models.TopicMessageRequest, answer=models.ResultOut,
    ),
    Endpoint(
        "POST", "/v1/kick", "write", "Disconnect clients", clients.kick,
        body=models.Selection, answer=models.ResultOut,
    ),
    Endpoint(
        "POST", "/v1/acl/clean", "write", "Forget what clients may do, so that the ACL is asked again",
        clients.clean_acl, body=models.CleanSelection, answer=models.ResultOut,
    ),
    Endpoint(
        "GET", "/v1/routes", "read", "The rules in force", cluster.list_routes,
        query=models.Page, answer=models.RoutesOut, problems=(422,),
    ),
    Endpoint(
        "POST", "/v1/routes/explain", "read", "What would become of a PUBLISH", cluster.explain,
        body=models.ExplainRequest, answer=models.ExplainedOut,
    ),
    Endpoint("GET", "/v1/nodes", "read", "The replicas", cluster.list_nodes, answer=models.NodesOut),
    Endpoint(
        "GET", "/v1/bans", "read", "Who is banned", bans.list_bans,
        query=models.Page, answer=models.BansOut, problems=(422,),
    ),
    Endpoint(
        "POST", "/v1/bans", "write", "Ban a client, a user or an address, on all replicas", bans.set_ban,
        body=models.BanRequest, answer=models.BanOut, status=201, problems=(409,),
    ),
    Endpoint(
        "DELETE", "/v1/bans/{kind}/{value}", "write", "Lift a ban", bans.lift_ban, status=204, problems=(400, 404),
    ),
    Endpoint("GET", "/v1/config", "read", "The settings in force", cluster.show_config, answer=models.ConfigOut),
    Endpoint("GET", "/v1/drain", "read", "Whether this replica drains", cluster.show_drain, answer=models.DrainOut),
    Endpoint(
        "POST", "/v1/drain", "write", "Let the devices of this replica go", cluster.start_drain,
        answer=models.DrainOut, status=202,
    ),
    Endpoint(
        "DELETE", "/v1/drain", "write", "Take devices again", cluster.cancel_drain, answer=models.DrainOut,
    ),
    Endpoint("GET", "/v1/openapi.json", "read", "This document", show_document),
)  # fmt: skip
