package main

import (
	"errors"

	"imgfs/cache"
	"imgfs/fetcher"
	"imgfs/fs"
	"imgfs/index"
	"imgfs/layers"
	"imgfs/layers/upper"
)

// Exit codes, part of the interface.
const (
	exitOK           = 0
	exitFailed       = 1
	exitNotFound     = 2
	exitUsage        = 3
	exitAuth         = 4
	exitVerification = 5
	exitMount        = 6
)

// A usageError is a command line that makes no sense.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// A notFoundError is about something that isn't there: a path in an image, a thing in the cache.
type notFoundError struct{ err error }

func (e notFoundError) Error() string { return e.err.Error() }
func (e notFoundError) Unwrap() error { return e.err }

// exitCodes is the one table from errors to exit codes; the first match counts.
var exitCodes = []struct {
	matches func(error) bool
	code    int
}{
	{as[usageError], exitUsage},
	{is(fetcher.ErrReference), exitUsage},
	{is(fetcher.ErrOptions), exitUsage},
	{is(fetcher.ErrUnauthorized), exitAuth},
	{is(fetcher.ErrMismatch), exitVerification},
	{is(fetcher.ErrMalformed), exitVerification},
	{as[*index.MismatchError], exitVerification},
	{as[*index.EntryError], exitVerification},
	{as[*layers.EntryError], exitVerification},
	{is(index.ErrMalformed), exitVerification},
	{is(index.ErrCorrupt), exitVerification},
	{is(index.ErrDamaged), exitVerification},
	{is(cache.ErrDamaged), exitVerification},
	{is(errDamagedCache), exitVerification},
	{is(fs.ErrMount), exitMount},
	{is(upper.ErrUnusable), exitMount},
	{is(fetcher.ErrNotFound), exitNotFound},
	{as[notFoundError], exitNotFound},
}

func is(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

func as[E error](err error) bool {
	var e E
	return errors.As(err, &e)
}

// exitCode is the exit code that err ends the program with.
func exitCode(err error) int {
	if err == nil {
		return exitOK
	}
	for _, c := range exitCodes {
		if c.matches(err) {
			return c.code
		}
	}
	return exitFailed
}
