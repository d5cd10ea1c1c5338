"""Everything to a plant's control system: an OPC UA server that clients read and subscribe to."""

import asyncio
import json
import logging
import threading
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prn_fast.errors import ConfigError, LinescanError, one_line
from prn_fast.extras import require_extra
from prn_fast.linescan.defects import Defect
from prn_fast.linescan.sinks.base import Sink, as_record
from prn_fast.linescan.snapshot import Snapshot
from prn_fast.linescan.sources.base import Gap

if TYPE_CHECKING:
    from asyncua import Node, Server, ua

# Namespaces: of the machine vision companion specification, OPC 40100-1, and of what it does not name.
VISION_NAMESPACE = "http://opcfoundation.org/UA/MachineVision"
OWN_NAMESPACE = "urn:prn_fast:linescan"
APPLICATION_URI = "urn:prn_fast:inspection"
CERTIFICATE, KEY, TRUSTED = "certificate.pem", "key.pem", "trusted"
STATES = ("Preoperational", "Halted", "Error", "Operational")
AUTOMATIC_STATES = ("Initialized", "Ready", "SingleExecution", "ContinuousExecution")
RESULTS_KEPT = 100
# Seconds for one change on the server, and for clients to receive the last one before the server ends.
_SECONDS = 20.0
_LAST_NOTICE_SECONDS = 1.0


@dataclass(frozen=True)
class Recipe:
    """What is inspected with: the package's name and digest."""

    name: str
    digest: str


class OPCUASink(Sink):
    """Serves state, recipe and results of the inspection under the names of the machine vision specification.

    Objects/VisionSystem holds VisionStateMachine (Operational, Error or Halted) with AutomaticModeStateMachine
    (ContinuousExecution while lines are inspected), RecipeManagement/Recipes with the package, ResultManagement with
    the last hundred defects and gaps as JSON, and Inspection with the number of defects and, after the end, the ledger.
    Each defect is also an event, ResultReadyEventType, of VisionSystem.

    Clients can read and subscribe, and change nothing: the server refuses to write, to call methods and to add nodes.
    It has the specification's names, and not its types.

    Args:
        host, port: to listen on; port 0 takes a free one.
        recipe: of the inspection.
        certificates: a folder with the server's certificate.pem and key.pem, and with the certificates of the clients
            that may connect, in trusted; connections are then signed and encrypted. None lets everybody read, in plain.
    Attributes:
        url: of the server, once it has started.
    Raises:
        ConfigError: asyncua is not installed, or a certificate is missing.
        LinescanError: a certificate cannot be used.
    """

    def __init__(self, host: str, port: int, recipe: Recipe, certificates: Path | None = None) -> None:
        require_extra("opcua", "asyncua")
        needed = [] if certificates is None else [certificates / name for name in (CERTIFICATE, KEY, TRUSTED)]
        for path in needed:
            if not path.exists():
                raise ConfigError(f"{path}: not found; OPC UA with certificates needs it")
        self._host = host
        self.url = self._url_at(port)
        self._results: deque[str] = deque(maxlen=RESULTS_KEPT)
        self._defects = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"prn-opcua {port}", daemon=True)
        self._thread.start()
        # Creating the thousands of nodes of every server takes a second or two: not while a line waits.
        self._space: _Space = self._first(_Space.prepare(host, port, recipe, certificates), seconds=None)

    def _url_at(self, port: int) -> str:
        return f"opc.tcp://{f'[{self._host}]' if ':' in self._host else self._host}:{port}"

    @property
    def name(self) -> str:
        """See `Sink.name`."""
        return self.url

    def start(self, source: str) -> None:
        """See `Sink.start`."""
        self.url = self._url_at(self._first(self._space.serve(source)))

    def defect(self, defect: Defect) -> None:
        """See `Sink.defect`."""
        self._defects += 1
        record = as_record("defect", defect.to_dict())
        self._do(self._space.tell(self._with(record), self._defects, defect))

    def gap(self, gap: Gap) -> None:
        """See `Sink.gap`."""
        self._do(self._space.tell(self._with(as_record("gap", vars(gap))), self._defects, None))

    def finish(self, snapshot: Snapshot) -> None:
        """See `Sink.finish`."""
        try:
            self._do(self._space.end(snapshot))
        finally:
            self._stop_thread()

    def _with(self, record: dict[str, Any]) -> list[str]:
        self._results.append(json.dumps(record, allow_nan=False))
        return list(self._results)

    def _do(self, action: Coroutine[Any, Any, Any], seconds: float | None = _SECONDS) -> Any:
        """Run an action in the server's thread and return its result; a server's error becomes a LinescanError."""
        from asyncua.ua import UaError

        try:
            return asyncio.run_coroutine_threadsafe(action, self._loop).result(seconds)
        except (OSError, ValueError, UaError) as error:
            raise LinescanError(f"{self.url}: cannot be served ({one_line(error)})") from None

    def _first(self, action: Coroutine[Any, Any, Any], seconds: float | None = _SECONDS) -> Any:
        """As `_do`, for a step that the server cannot do without: after an error, its thread ends."""
        try:
            return self._do(action, seconds)
        except BaseException:
            self._stop_thread()
            raise

    def _stop_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _Space:
    """The server and the nodes that change; all of it belongs to the server's thread."""

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._nodes: dict[str, Node] = {}
        self._states: dict[str, Node] = {}
        self._events: Any = None

    @classmethod
    async def prepare(cls, host: str, port: int, recipe: Recipe, certificates: Path | None) -> "_Space":
        """A server with all its nodes, which does not listen yet."""
        from asyncua import Server

        # Its warnings are for programmers, and would be printed.
        logging.getLogger("asyncua").addHandler(logging.NullHandler())
        server = Server(user_manager=_Readers())  # type: ignore[arg-type]  # it has the one method needed
        await server.init()
        space = cls(server)
        await space._secure(certificates)
        server.set_endpoint(f"opc.tcp://{f'[{host}]' if ':' in host else host}:{port}")
        server.set_server_name("prn_fast")
        await space._add_nodes(recipe)
        return space

    async def serve(self, source: str) -> int:
        """Enter ContinuousExecution and listen; returns the port."""
        await self._nodes["source"].write_value(source)
        await self._enter("Operational", "ContinuousExecution")
        await self._server.start()
        assert self._server.bserver is not None
        return self._server.bserver.port

    async def _secure(self, certificates: Path | None) -> None:
        from asyncua import ua
        from asyncua.crypto.permission_rules import SimpleRoleRuleset, UserRole
        from asyncua.crypto.truststore import TrustStore
        from asyncua.crypto.validator import CertificateValidator, CertificateValidatorOptions

        self._server.allow_remote_admin(False)
        rules = SimpleRoleRuleset()
        for changing in ("WriteRequest", "CallRequest"):
            kind = getattr(ua.ObjectIds, f"{changing}_Encoding_DefaultBinary")
            rules._permission_dict[UserRole.User].discard(ua.NodeId(kind))
        policies = [ua.SecurityPolicyType.NoSecurity]
        if certificates is not None:
            policies = [
                ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt,
                ua.SecurityPolicyType.Aes256Sha256RsaPss_SignAndEncrypt,
            ]
            await self._server.set_application_uri(APPLICATION_URI)
            await self._server.load_certificate(certificates / CERTIFICATE)
            await self._server.load_private_key(certificates / KEY)
            trusted = TrustStore([certificates / TRUSTED], [])
            await trusted.load()
            checks = CertificateValidatorOptions
            self._server.set_certificate_validator(
                CertificateValidator(checks.TIME_RANGE | checks.URI | checks.TRUSTED | checks.PEER_CLIENT, trusted)
            )
        self._server.set_security_policy(policies, permission_ruleset=rules)
        self._server.set_identity_tokens([ua.AnonymousIdentityToken])

    async def _add_nodes(self, recipe: Recipe) -> None:
        from asyncua import ua

        text, whole = ua.VariantType.String, ua.VariantType.UInt64
        vision = await self._server.register_namespace(VISION_NAMESPACE)
        own = await self._server.register_namespace(OWN_NAMESPACE)
        system = await self._server.nodes.objects.add_object(vision, "VisionSystem")
        # The type of all such machines is abstract.
        finite = self._server.get_node(ua.ObjectIds.FiniteStateMachineType)
        kind = (await finite.add_object_type(own, "InspectionStateMachineType")).nodeid
        machine = await self._add_machine(system, vision, "VisionStateMachine", kind, STATES)
        await self._add_machine(machine, vision, "AutomaticModeStateMachine", kind, AUTOMATIC_STATES)

        recipes = await (await system.add_object(vision, "RecipeManagement")).add_folder(vision, "Recipes")
        current = await recipes.add_object(vision, "Recipe")
        await current.add_property(vision, "ExternalId", recipe.name, text)
        await current.add_property(vision, "InternalId", recipe.digest, text)

        results = await (await system.add_object(vision, "ResultManagement")).add_folder(vision, "Results")
        self._nodes["results"] = await results.add_variable(own, "LastResults", [], text)
        inspection = await system.add_object(own, "Inspection")
        self._nodes["source"] = await inspection.add_variable(own, "Source", "", text)
        self._nodes["defects"] = await inspection.add_variable(own, "Defects", 0, whole)
        self._nodes["ledger"] = await inspection.add_variable(own, "Ledger", "", text)
        self._nodes["error"] = await inspection.add_variable(own, "Error", "", text)

        event = await self._server.create_custom_event_type(
            vision,
            "ResultReadyEventType",
            ua.ObjectIds.BaseEventType,
            [
                ("CreationTime", ua.VariantType.DateTime),
                ("IsPartial", ua.VariantType.Boolean),
                ("IsSimulated", ua.VariantType.Boolean),
                ("InternalRecipeId", text),
                ("ResultContent", text),
            ],
        )
        self._events = await self._server.get_event_generator(event.nodeid, system.nodeid)
        self._events.event.InternalRecipeId = recipe.digest
        self._events.event.IsSimulated = False

    async def _add_machine(
        self, parent: "Node", namespace: int, name: str, kind: "ua.NodeId", states: tuple[str, ...]
    ) -> "Node":
        machine = await parent.add_object(namespace, name, kind, instantiate_optional=False)
        self._nodes[name] = await machine.get_child("0:CurrentState")
        for state in states:
            self._states[state] = await machine.add_object(namespace, state)
        return machine

    async def _enter(self, state: str, automatic: str | None = None) -> None:
        """Make a state the current one; outside of Operational, the automatic mode has none."""
        from asyncua import ua

        for machine, name in (("AutomaticModeStateMachine", automatic), ("VisionStateMachine", state)):
            current = self._nodes[machine]
            identifier = ua.NodeId() if name is None else self._states[name].nodeid
            await (await current.get_child("0:Id")).write_value(identifier, ua.VariantType.NodeId)
            await current.write_value(ua.LocalizedText(name or ""))

    async def tell(self, results: list[str], defects: int, defect: Defect | None) -> None:
        """Show the last results, and send an event for a defect."""
        from asyncua import ua

        await self._nodes["results"].write_value(results, ua.VariantType.String)
        await self._nodes["defects"].write_value(defects, ua.VariantType.UInt64)
        if defect is not None:
            event = self._events.event
            event.CreationTime = datetime.now(UTC)
            event.IsPartial = defect.continues
            event.ResultContent = results[-1]
            event.Severity = {"minor": 300, "major": 600, "critical": 900}[str(defect.severity)]
            message = f"{defect.severity} defect at line {defect.first_line}, pixel {defect.left}"
            await self._events.trigger(message=message)

    async def end(self, snapshot: Snapshot) -> None:
        """Show how the inspection ended, let clients see it, and stop."""
        try:
            await self._nodes["ledger"].write_value(json.dumps(snapshot.to_dict()))
            await self._nodes["error"].write_value(snapshot.error or "")
            await self._enter("Error" if snapshot.error else "Halted")
            await asyncio.sleep(_LAST_NOTICE_SECONDS)
        finally:
            await self._server.stop()


class _Readers:
    """Lets everyone read; there is no administrator."""

    def get_user(self, *_: Any, **__: Any) -> Any:
        """The one kind of user that there is."""
        from asyncua.crypto.permission_rules import User, UserRole

        return User(role=UserRole.User)
