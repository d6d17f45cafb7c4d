# The layer with python3: an ordinary apt installation.
apt-get -q update
apt-get -q install -y --no-install-recommends python3 ca-certificates libcap2-bin attr
apt-get -q clean
rm -rf /var/lib/apt/lists/*
