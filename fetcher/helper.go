package fetcher

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"github.com/docker/cli/cli/config/types"
)

// Words of docker's credential helpers (github.com/docker/docker-credential-helpers).
const (
	helperPrefix   = "docker-credential-"
	helperNotFound = "credentials not found in native keychain"
	helperToken    = "<token>" // as user name: the secret is an identity token
	maxHelperReply = 1 << 20
)

// askHelper asks a credential helper for a registry's credentials: the program
// docker-credential-NAME with the argument get reads the registry's name, and
// writes JSON. Nothing that it writes gets into errors.
func askHelper(ctx context.Context, helper, server string) (types.AuthConfig, error) {
	program := helperPrefix + helper
	if strings.ContainsAny(helper, `/\`) {
		return types.AuthConfig{}, fmt.Errorf("%q is not the name of a credential helper", helper)
	}
	cmd := exec.CommandContext(ctx, program, "get")
	cmd.WaitDelay = time.Second
	cmd.Stdin = strings.NewReader(server)
	var out bytes.Buffer
	cmd.Stdout = &boundedWriter{&out, maxHelperReply}
	if err := cmd.Run(); err != nil {
		if strings.Contains(out.String(), helperNotFound) {
			return types.AuthConfig{}, nil
		}
		return types.AuthConfig{}, fmt.Errorf("credential helper %s: %w", program, err)
	}
	var reply struct{ Username, Secret string }
	if json.Unmarshal(out.Bytes(), &reply) != nil {
		return types.AuthConfig{}, fmt.Errorf("credential helper %s: its answer is not valid", program)
	}
	if reply.Username == helperToken {
		return types.AuthConfig{IdentityToken: reply.Secret}, nil
	}
	return types.AuthConfig{Username: reply.Username, Password: reply.Secret}, nil
}

// A boundedWriter fails once more than left bytes are written to it.
type boundedWriter struct {
	w    io.Writer
	left int
}

func (b *boundedWriter) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return 0, io.ErrShortWrite
	}
	return b.w.Write(p)
}
