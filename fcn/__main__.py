import sys

from fcn.cli.app import main

sys.exit(main())
