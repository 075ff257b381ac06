"""`python -m livetalk_core`."""

import sys

if sys.argv[1:2] == ["worker"]:  # starts in a third of the time
    from .commands.worker import main

    sys.exit(main(sys.argv[2:]))

from .commands.main import main

sys.exit(main())
