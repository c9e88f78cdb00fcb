package rest

import (
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The media types that are spoken, in both directions.
const (
	mediaJSON     = "application/json"
	mediaYAML     = "application/yaml"
	mediaProtobuf = "application/vnd.kubernetes.protobuf"
)

const acceptedMedia = mediaJSON + ", " + mediaYAML + ", " + mediaProtobuf

// form is the shape in which an answer was asked for.
type form struct {
	media string // one of the three
	as    string // "", Table, PartialObjectMetadata or PartialObjectMetadataList
	// version of as: v1, or v1beta1, which differs in name only.
	version string
}

// negotiate chooses, of what an Accept header lists, the first in order of
// preference that can be served. Nothing listed is JSON.
func negotiate(accept string) (form, error) {
	if strings.TrimSpace(accept) == "" {
		return form{media: mediaJSON}, nil
	}
	type clause struct {
		form
		quality float64
	}
	var clauses []clause
	for text := range strings.SplitSeq(accept, ",") {
		media, params, err := mime.ParseMediaType(text)
		if err != nil {
			continue
		}
		c := clause{quality: 1}
		switch media {
		case "*/*", "application/*", mediaJSON:
			c.media = mediaJSON
		case mediaYAML, mediaProtobuf:
			c.media = media
		default:
			continue
		}
		if q, err := strconv.ParseFloat(params["q"], 64); err == nil {
			c.quality = q
		}
		switch as := params["as"]; {
		case as == "":
		case params["g"] != metav1.GroupName || params["v"] != "v1" && params["v"] != "v1beta1":
			continue
		case as == "Table" && c.media != mediaProtobuf, as == "PartialObjectMetadata", as == "PartialObjectMetadataList":
			c.as, c.version = as, params["v"]
		default:
			continue
		}
		if c.quality > 0 {
			clauses = append(clauses, c)
		}
	}
	if len(clauses) == 0 {
		return form{media: mediaJSON}, statusError(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable,
			"only the following media types are accepted: "+acceptedMedia)
	}
	best := slices.MaxFunc(clauses, func(a, b clause) int { // of equals the first
		if a.quality > b.quality {
			return 1
		} else if a.quality < b.quality {
			return -1
		}
		return 0
	})
	return best.form, nil
}

// bodyMedia returns in which of the three a body is written; JSON if that is
// not said.
func bodyMedia(contentType string) (string, error) {
	if contentType == "" {
		return mediaJSON, nil
	}
	media, _, err := mime.ParseMediaType(contentType)
	switch {
	case err != nil:
	case media == mediaJSON || media == mediaYAML || media == mediaProtobuf:
		return media, nil
	}
	return "", unsupportedMedia(acceptedMedia)
}

func unsupportedMedia(accepted string) error {
	return statusError(http.StatusUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType,
		"the body of the request was in an unknown format - accepted media types include: "+accepted)
}

// statusError is an error that becomes a Status as it is.
func statusError(code int, reason metav1.StatusReason, message string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: message,
	}}
}
