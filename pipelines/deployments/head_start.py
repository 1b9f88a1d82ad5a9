"""Import me first in a flow that runs stages. Their imports, in the fork server, then run beside those of the flow, which take as long."""

import os

from attar.stages.process import start_fork_server

# a worker has started this process for one run; whoever else imports a deployment wants no fork server
if os.environ.get("PREFECT__FLOW_RUN_ID"):
    start_fork_server()
