# A layer of very many small files.
apt-get -q update
apt-get -q install -y --no-install-recommends linux-libc-dev golang-1.19-src
apt-get -q clean
rm -rf /var/lib/apt/lists/*

# What the next layer turns into something else: each of file, directory and
# symbolic link, twice.
mkdir /opt/types
cd /opt/types
for to in directory link; do echo was a file >file-to-$to; done
for to in file link; do mkdir -p dir-to-$to/sub; echo below >dir-to-$to/sub/inner; done
for to in file directory; do ln -s /usr/share link-to-$to; done
