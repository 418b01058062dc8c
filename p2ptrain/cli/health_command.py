"""``p2ptrain health``: for container engines and supervisors, which ask with an exit status."""

import typer

from p2ptrain.cli.control_commands import ControlOption, HomeOption, target_of

_TIMEOUT_S = 5.0


def health(home: HomeOption = None, control: ControlOption = None) -> None:
    """Ask the gRPC health service of a running peer: status 0 if it serves, 1 if not.

    Example: p2ptrain health --home peer-a
    """
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from p2ptrain.control.client import explain, open_channel

    target = target_of(home, control)
    with open_channel(target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            typer.echo(f"not serving: {explain(error, target)}", err=True)
            raise typer.Exit(1) from error
    word = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status).lower()
    typer.echo(word.replace("_", " "))
    if reply.status != health_pb2.HealthCheckResponse.SERVING:
        raise typer.Exit(1)
