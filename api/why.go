package api

import (
	"fmt"
	"net/http"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"podd/internal/refusal"
	"podd/pod"
)

// why serves the chains of causes of one pod, with ?container= those of one
// container and of the pod as a whole. Of a name that no pod has, the problems of
// all files are told, as one of them may be the reason.
func (c Config) why(w http.ResponseWriter, r *http.Request) {
	p, err := c.find(r)
	if err != nil {
		problems := []string{}
		if c.Problems != nil {
			problems = c.Problems()
		}
		if len(problems) == 0 {
			refusal.Write(w, err)
			return
		}
		writeJSON(w, []pod.Chain{{
			Effect: "there is no pod of this name", Causes: append([]string{"it may be in a file that is refused"}, problems...),
			Remedy: "correct the files; podd check FILE shows the same",
		}})
		return
	}
	key := keyOf(p)
	var mistakes []string
	if c.Mistakes != nil {
		mistakes = c.Mistakes(key)
	}
	chains, err := c.Commands.Why(r.Context(), key, mistakes)
	if err != nil {
		refusal.Write(w, err)
		return
	}
	if name := r.URL.Query().Get("container"); name != "" {
		if !slices.Contains(pod.ContainerNames(p), name) {
			refusal.Write(w, apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, p.Name)))
			return
		}
		chains = slices.DeleteFunc(chains, func(c pod.Chain) bool { return c.Container != "" && c.Container != name })
	}
	writeJSON(w, chains)
}
