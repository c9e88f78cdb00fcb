package seal

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func identity(t *testing.T) (*Opener, Recipients, string) {
	t.Helper()
	o := &Opener{Path: filepath.Join(t.TempDir(), "made", "identity.txt")}
	if err := NewIdentity(o.Path); err != nil {
		t.Fatal(err)
	}
	to, names, err := o.Recipients()
	if err != nil || len(names) != 1 || !strings.HasPrefix(names[0], "age1") {
		t.Fatalf("recipients are %v (%v)", names, err)
	}
	return o, to, names[0]
}

func TestASealedValueIsOpenedByItsIdentityOnly(t *testing.T) {
	o, to, name := identity(t)
	stranger, _, _ := identity(t)
	for _, value := range [][]byte{{}, []byte("hunter2"), bytes.Repeat([]byte{0, 0xff}, 300_000)} {
		sealed, err := Value(value, to)
		if err != nil {
			t.Fatal(err)
		}
		if !IsValue(sealed) || len(value) > 0 && bytes.Contains(sealed, value) {
			t.Errorf("a value of %d bytes is not sealed", len(value))
		}
		if got, err := o.Open(sealed); err != nil || !bytes.Equal(got, value) {
			t.Errorf("a value of %d bytes opens as %d bytes (%v)", len(value), len(got), err)
		}
		if _, err := stranger.Open(sealed); err == nil || !strings.Contains(err.Error(), "sealed for another identity") {
			t.Errorf("a stranger opens it: %v", err)
		}
		for _, cut := range []int{1, 10, 16 + len(value)} {
			if got, err := o.Open(sealed[:len(sealed)-cut]); err == nil {
				t.Errorf("a value of %d bytes without its last %d opens as %d bytes", len(value), cut, len(got))
			}
		}
	}
	again, err := ParseRecipients([]string{name})
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := Value([]byte("x"), again)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := o.Open(sealed); err != nil || string(got) != "x" {
		t.Errorf("sealed for the recipient's name it opens as %q (%v)", got, err)
	}
	sealed[len(sealed)-1] ^= 1
	if _, err := o.Open(sealed); err == nil || !strings.Contains(err.Error(), "it is damaged") {
		t.Errorf("a changed value: %v", err)
	}
	if _, err := ParseRecipients([]string{"age1x"}); err == nil {
		t.Error("a recipient that is none is taken")
	}
	if err := NewIdentity(o.Path); err == nil {
		t.Error("an identity is overwritten")
	}
}

func TestTheIdentityMustBeItsOwnersAlone(t *testing.T) {
	o, to, _ := identity(t)
	sealed, err := Value([]byte("x"), to)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(o.Path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("an identity is made with mode %v (%v)", info.Mode(), err)
	}
	open := func() string {
		if _, err := o.Open(sealed); err != nil {
			return err.Error()
		}
		return ""
	}
	for _, test := range []struct {
		mode os.FileMode
		want string
	}{{0o640, "its mode is 0640; chmod it to 0600"}, {0o604, "its mode is 0604"}, {0o400, ""}, {0o600, ""}} {
		if err := os.Chmod(o.Path, test.mode); err != nil {
			t.Fatal(err)
		}
		if got := open(); (test.want == "") != (got == "") || !strings.Contains(got, test.want) {
			t.Errorf("mode %04o: %q, want %q", test.mode, got, test.want)
		}
	}
	good, err := os.ReadFile(o.Path)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ text, want string }{
		{"AGE-SECRET-KEY-1NONE\n", "expected lines AGE-SECRET-KEY-1"},
		{"# nothing\n", "expected lines AGE-SECRET-KEY-1"},
		{string(good), ""},
	} {
		if err := os.WriteFile(o.Path, []byte(test.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := open(); (test.want == "") != (got == "") || !strings.Contains(got, test.want) || strings.Contains(got, "1NONE") {
			t.Errorf("an identity %q: %q, want %q", test.text, got, test.want)
		}
	}
	if err := os.Remove(o.Path); err != nil {
		t.Fatal(err)
	}
	if got := open(); !strings.Contains(got, "there is no identity "+o.Path) {
		t.Errorf("without an identity: %q", got)
	}
}
