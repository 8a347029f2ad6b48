// Package debian holds what the Debian package is made of: the systemd unit, the maintainer scripts, and the script that
// puts them together (build.sh, called by "make deb"). It has no code but the test that installs, upgrades, removes and
// purges the package on a copy of this machine that nobody else sees.
package debian
