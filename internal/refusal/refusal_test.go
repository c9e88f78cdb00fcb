package refusal

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

func TestWrite(t *testing.T) {
	for want, err := range map[string]error{
		`400 {"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"no","reason":"BadRequest","code":400}`:                                                                         fmt.Errorf("wrapped: %w", apierrors.NewBadRequest("no")),
		`500 {"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"Internal error occurred: lost","reason":"InternalError","details":{"causes":[{"message":"lost"}]},"code":500}`: errors.New("lost"),
	} {
		w := httptest.NewRecorder()
		Write(w, err)
		if got := fmt.Sprint(w.Code, " ", w.Body.String()); got != want+"\n" || w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%v: got %s, want %s", err, got, want)
		}
	}
}
