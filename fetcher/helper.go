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
// writes JSON.
func askHelper(ctx context.Context, helper, server string) (types.AuthConfig, error) {
	out, err := runHelper(ctx, helper, "get", server)
	if err != nil {
		if strings.Contains(out, helperNotFound) {
			return types.AuthConfig{}, nil
		}
		return types.AuthConfig{}, err
	}
	var reply struct{ Username, Secret string }
	if json.Unmarshal([]byte(out), &reply) != nil {
		return types.AuthConfig{}, fmt.Errorf("credential helper %s: its answer is not valid", helperPrefix+helper)
	}
	if reply.Username == helperToken {
		return types.AuthConfig{IdentityToken: reply.Secret}, nil
	}
	return types.AuthConfig{Username: reply.Username, Password: reply.Secret}, nil
}

// tellHelper has a credential helper store credentials.
func tellHelper(ctx context.Context, helper, server string, c types.AuthConfig) error {
	b, err := json.Marshal(struct{ ServerURL, Username, Secret string }{server, c.Username, c.Password})
	if err != nil {
		return err
	}
	_, err = runHelper(ctx, helper, "store", string(b))
	return err
}

// runHelper runs a credential helper. Nothing that it writes gets into errors.
func runHelper(ctx context.Context, helper, action, input string) (output string, err error) {
	program := helperPrefix + helper
	if strings.ContainsAny(helper, `/\`) {
		return "", fmt.Errorf("%q is not the name of a credential helper", helper)
	}
	cmd := exec.CommandContext(ctx, program, action)
	cmd.WaitDelay = time.Second
	cmd.Stdin = strings.NewReader(input)
	var out bytes.Buffer
	cmd.Stdout = &boundedWriter{&out, maxHelperReply}
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("credential helper %s: %w", program, err)
	}
	return out.String(), nil
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
