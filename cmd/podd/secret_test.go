package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWhereTheIdentityIs(t *testing.T) {
	credentials := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", credentials)
	if got := agentIdentity(""); got != defaultIdentity {
		t.Errorf("where systemd brings other credentials only: %s", got)
	}
	brought := filepath.Join(credentials, "podd-identity")
	if err := os.WriteFile(brought, nil, 0o400); err != nil {
		t.Fatal(err)
	}
	if got := agentIdentity(""); got != brought {
		t.Errorf("where systemd brings it: %s", got)
	}
	if got := agentIdentity("/a"); got != "/a" {
		t.Errorf("where a flag names it: %s", got)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	if got := agentIdentity(""); got != defaultIdentity {
		t.Errorf("without systemd: %s", got)
	}
}
