"""`python -m livetalk_core`."""

import sys

if sys.argv[1:2] == ["worker"]:  # starts in a third of the time
    from .runners import main

    sys.exit(main(sys.argv[2:]))

from .cli import main

sys.exit(main())
