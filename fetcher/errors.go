package fetcher

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// Sentinels for errors.Is. The errors that wrap them are sentences that say
// what is concerned.
var (
	// ErrReference: the string names no image, or more than one.
	ErrReference = errors.New("invalid reference")
	// ErrNotFound: no such image, tag, platform, document or blob.
	ErrNotFound = errors.New("not found")
	// ErrUnauthorized: the registry refuses these credentials, or wants some.
	ErrUnauthorized = errors.New("unauthorized")
	// ErrMismatch: bytes are not what their digest, size or number says. See MismatchError.
	ErrMismatch = errors.New("mismatch")
	// ErrMalformed: a document is not what the specification wants, or is too large.
	ErrMalformed = errors.New("malformed")
	// ErrOffline: the network would be needed, and Options.Offline is set. As
	// what is meant is not in the Store, it is an ErrNotFound as well.
	ErrOffline = fmt.Errorf("offline: %w", ErrNotFound)
	// ErrOptions: Options that cannot be used as they are, such as a file that
	// is not there or a platform that is none.
	ErrOptions = errors.New("unusable options")
)

// A MismatchError says what differs. It is an ErrMismatch.
type MismatchError struct {
	What            string // "manifest", "size of blob sha256:…", …
	Expected, Found string
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("%s does not match: expected %s, found %s", e.What, e.Expected, e.Found)
}

// Is makes a MismatchError an ErrMismatch.
func (e *MismatchError) Is(target error) bool { return target == ErrMismatch }

// A PlatformError says that an image exists, but not for the platform that
// was asked for. It is an ErrNotFound.
type PlatformError struct {
	Ref  string
	Want string
	Have []string // os/arch[/variant], in the order of the index
}

func (e *PlatformError) Error() string {
	if len(e.Have) == 0 {
		return fmt.Sprintf("%s has no image for any platform", e.Ref)
	}
	return fmt.Sprintf("%s has no image for %s; it has %s", e.Ref, e.Want, strings.Join(e.Have, ", "))
}

// Is makes a PlatformError an ErrNotFound.
func (e *PlatformError) Is(target error) bool { return target == ErrNotFound }

// sentence is an error whose text is all there is to say, and whose kind is for errors.Is.
type sentence struct {
	kind error
	text string
}

func (e *sentence) Error() string { return e.text }
func (e *sentence) Unwrap() error { return e.kind }

func errorf(kind error, format string, args ...any) error {
	return &sentence{kind, fmt.Sprintf(format, args...)}
}

// printable makes one short line of text that came from elsewhere.
func printable(s string) string {
	const most = 300
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// unsupported returns an error for things that exist, and that this package
// cannot read. It wraps errors.ErrUnsupported.
func unsupported(format string, args ...any) error {
	return errorf(errors.ErrUnsupported, format, args...)
}
