// A tour of the API server with client-go as controllers use it: typed and dynamic clients, protobuf and JSON, informers
// that survive deletions, every form of patch, server-side apply, custom resources, leader election, paging.
//
//	tour KUBECONFIG
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/pager"
	"k8s.io/client-go/util/retry"
)

// Longest wait for anything that happens by itself.
const patience = 20 * time.Second

type tour struct {
	ctx     context.Context
	ns      string
	typed   *kubernetes.Clientset
	crds    *apiextensions.Clientset
	dynamic *dynamic.DynamicClient
	meta    metadata.Interface
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func check(what string, good bool) {
	if !good {
		panic(what)
	}
}

func eventually(what string, condition func() bool) {
	err := wait.PollUntilContextTimeout(context.Background(), 20*time.Millisecond, patience, true,
		func(context.Context) (bool, error) { return condition(), nil })
	if err != nil {
		panic("never: " + what)
	}
}

func main() {
	config, err := clientcmd.BuildConfigFromFlags("", os.Args[1])
	must(err)
	config.QPS, config.Burst = 200, 400
	protobuf := *config
	protobuf.ContentType = runtime.ContentTypeProtobuf
	protobuf.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	t := &tour{
		ctx: context.Background(), ns: fmt.Sprintf("tour-go-%d", time.Now().UnixNano()),
		typed: kubernetes.NewForConfigOrDie(&protobuf), crds: apiextensions.NewForConfigOrDie(config),
		dynamic: dynamic.NewForConfigOrDie(config), meta: metadata.NewForConfigOrDie(config),
	}
	_, err = t.typed.CoreV1().Namespaces().Create(t.ctx,
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: t.ns}}, metav1.CreateOptions{})
	must(err)
	defer t.typed.CoreV1().Namespaces().Delete(t.ctx, t.ns, metav1.DeleteOptions{})
	steps := []struct {
		name string
		run  func()
	}{
		{"discovery", t.discovery}, {"typed objects over protobuf", t.objects}, {"errors", t.errors},
		{"patches", t.patches}, {"server-side apply", t.apply}, {"informers", t.informers},
		{"paging and metadata", t.paging}, {"custom resources", t.customResources},
		{"leader election", t.leaderElection}, {"deletion", t.deletion},
	}
	for _, step := range steps {
		step.run()
		fmt.Println("ok  ", step.name)
	}
}

func (t *tour) discovery() {
	version, err := t.typed.Discovery().ServerVersion()
	must(err)
	check("version 1.36", version.Major == "1" && version.Minor == "36")
	groups, resources, err := t.typed.Discovery().ServerGroupsAndResources()
	must(err)
	check("groups and resources", len(groups) > 15 && len(resources) > 15)
	documents, err := t.typed.Discovery().OpenAPIV3().Paths()
	must(err)
	check("OpenAPI of apps", documents["apis/apps/v1"] != nil)
	v2, err := t.typed.Discovery().OpenAPISchema()
	must(err)
	check("OpenAPI v2", len(v2.GetDefinitions().GetAdditionalProperties()) > 300)
}

func (t *tour) objects() {
	maps := t.typed.CoreV1().ConfigMaps(t.ns)
	made, err := maps.Create(t.ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "made-"}, BinaryData: map[string][]byte{"b": {0, 1, 255}}}, metav1.CreateOptions{})
	must(err)
	check("a generated name", len(made.Name) > len("made-") && made.UID != "")
	read, err := maps.Get(t.ctx, made.Name, metav1.GetOptions{})
	must(err)
	check("bytes survive", string(read.BinaryData["b"]) == "\x00\x01\xff" && read.ResourceVersion == made.ResourceVersion)
	must(retry.RetryOnConflict(retry.DefaultRetry, func() error {
		read.Data = map[string]string{"k": "v"}
		_, err := maps.Update(t.ctx, read, metav1.UpdateOptions{})
		return err
	}))
	replicas := int32(2)
	labels := map[string]string{"app": "web"}
	deployment, err := t.typed.AppsV1().Deployments(t.ns).Create(t.ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "registry.invalid/web:1"}}}}}}, metav1.CreateOptions{})
	must(err)
	check("defaults", deployment.Spec.Strategy.RollingUpdate.MaxSurge.StrVal == "25%" && deployment.Generation == 1)
	// The controller writes the deployment's status meanwhile.
	must(retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		scale, err := t.typed.AppsV1().Deployments(t.ns).GetScale(t.ctx, "web", metav1.GetOptions{})
		must(err)
		scale.Spec.Replicas = 3
		scale, err = t.typed.AppsV1().Deployments(t.ns).UpdateScale(t.ctx, "web", scale, metav1.UpdateOptions{})
		if err != nil {
			return err
		}
		check("scale", scale.Spec.Replicas == 3 && scale.Status.Selector == "app=web")
		return nil
	}))
	dry, err := maps.Create(t.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "dry"}},
		metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	must(err)
	_, err = maps.Get(t.ctx, dry.Name, metav1.GetOptions{})
	check("a dry run leaves nothing", apierrors.IsNotFound(err))
}

func (t *tour) errors() {
	maps := t.typed.CoreV1().ConfigMaps(t.ns)
	_, err := maps.Get(t.ctx, "nothing", metav1.GetOptions{})
	check("not found", apierrors.IsNotFound(err))
	one := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "one"}}
	one, err = maps.Create(t.ctx, one, metav1.CreateOptions{})
	must(err)
	_, err = maps.Create(t.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "one"}}, metav1.CreateOptions{})
	check("already exists", apierrors.IsAlreadyExists(err))
	stale := one.DeepCopy()
	one.Data = map[string]string{"a": "b"}
	_, err = maps.Update(t.ctx, one, metav1.UpdateOptions{})
	must(err)
	stale.Data = map[string]string{"c": "d"}
	_, err = maps.Update(t.ctx, stale, metav1.UpdateOptions{})
	check("conflict", apierrors.IsConflict(err))
	_, err = maps.Create(t.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "Not_A_Name"}}, metav1.CreateOptions{})
	check("invalid", apierrors.IsInvalid(err) && len(err.(apierrors.APIStatus).Status().Details.Causes) == 1)
	_, err = maps.Create(t.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: "other"}}, metav1.CreateOptions{})
	check("bad request", apierrors.IsBadRequest(err))
	uid := types.UID("wrong")
	err = maps.Delete(t.ctx, "one", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
	check("precondition", apierrors.IsConflict(err))
	_, err = maps.List(t.ctx, metav1.ListOptions{ResourceVersion: "999999999999"})
	check("too large a version", apierrors.IsTimeout(err))
}

func (t *tour) patches() {
	deployments := t.typed.AppsV1().Deployments(t.ns)
	patch := func(form types.PatchType, body string) *appsv1.Deployment {
		patched, err := deployments.Patch(t.ctx, "web", form, []byte(body), metav1.PatchOptions{})
		must(err)
		return patched
	}
	strategic := patch(types.StrategicMergePatchType,
		`{"spec":{"template":{"spec":{"containers":[{"name":"web","env":[{"name":"A","value":"1"}]},{"name":"side","image":"registry.invalid/side:1"}]}}}}`)
	check("strategic merge goes by name", len(strategic.Spec.Template.Spec.Containers) == 2 &&
		len(strategic.Spec.Template.Spec.Containers[0].Image+strategic.Spec.Template.Spec.Containers[1].Image) > 40)
	merged := patch(types.MergePatchType, `{"metadata":{"annotations":{"a":"b"}},"spec":{"paused":true}}`)
	check("merge", merged.Annotations["a"] == "b" && merged.Spec.Paused)
	replaced := patch(types.JSONPatchType, `[{"op":"test","path":"/spec/paused","value":true},{"op":"remove","path":"/spec/paused"}]`)
	check("JSON patch", !replaced.Spec.Paused)
	_, err := deployments.Patch(t.ctx, "web", types.JSONPatchType, []byte(`[{"op":"test","path":"/spec/paused","value":true}]`), metav1.PatchOptions{})
	check("a test that does not hold", apierrors.IsInvalid(err))
	status, err := deployments.Patch(t.ctx, "web", types.MergePatchType, []byte(`{"spec":{"replicas":9},"metadata":{"labels":{"x":"y"}}}`), metav1.PatchOptions{}, "status")
	must(err)
	check("a status patch leaves the spec", *status.Spec.Replicas == 3)
}

func (t *tour) apply() {
	maps := t.typed.CoreV1().ConfigMaps(t.ns)
	config := applycorev1.ConfigMap("applied", t.ns).WithData(map[string]string{"a": "1", "b": "2"})
	_, err := maps.Apply(t.ctx, config, metav1.ApplyOptions{FieldManager: "one"})
	must(err)
	_, err = maps.Apply(t.ctx, applycorev1.ConfigMap("applied", t.ns).WithData(map[string]string{"a": "2"}), metav1.ApplyOptions{FieldManager: "two"})
	check("a conflict", apierrors.IsConflict(err) && err.(apierrors.APIStatus).Status().Details.Causes[0].Field == ".data.a")
	_, err = maps.Apply(t.ctx, applycorev1.ConfigMap("applied", t.ns).WithData(map[string]string{"a": "2"}), metav1.ApplyOptions{FieldManager: "two", Force: true})
	must(err)
	left, err := maps.Apply(t.ctx, applycorev1.ConfigMap("applied", t.ns), metav1.ApplyOptions{FieldManager: "one"})
	must(err)
	check("what nobody applies goes", len(left.Data) == 1 && left.Data["a"] == "2")
	extracted, err := applycorev1.ExtractConfigMap(left, "two")
	must(err)
	check("managed fields are readable", extracted.Data["a"] == "2")
}

func (t *tour) informers() {
	stop := make(chan struct{})
	defer close(stop)
	factory := informers.NewSharedInformerFactoryWithOptions(t.typed, 0, informers.WithNamespace(t.ns))
	maps := factory.Core().V1().ConfigMaps()
	added, changed, deleted := make(chan string, 100), make(chan string, 100), make(chan string, 100)
	name := func(object any) string {
		if tombstone, is := object.(cache.DeletedFinalStateUnknown); is {
			object = tombstone.Obj
		}
		return object.(*corev1.ConfigMap).Name
	}
	_, err := maps.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { added <- name(object) },
		UpdateFunc: func(_, object any) { changed <- name(object) },
		DeleteFunc: func(object any) { deleted <- name(object) },
	})
	must(err)
	factory.Start(stop)
	check("the cache fills", cache.WaitForCacheSync(stop, maps.Informer().HasSynced))
	await := func(events chan string, wanted string) {
		for {
			select {
			case got := <-events:
				if got == wanted {
					return
				}
			case <-time.After(patience):
				panic("no event for " + wanted)
			}
		}
	}
	client := t.typed.CoreV1().ConfigMaps(t.ns)
	seen, err := client.Create(t.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "seen"}}, metav1.CreateOptions{})
	must(err)
	await(added, "seen")
	seen.Data = map[string]string{"now": "different"}
	_, err = client.Update(t.ctx, seen, metav1.UpdateOptions{})
	must(err)
	await(changed, "seen")
	must(client.Delete(t.ctx, "seen", metav1.DeleteOptions{}))
	await(deleted, "seen")
	all, err := client.List(t.ctx, metav1.ListOptions{})
	must(err)
	eventually("cache and list agree", func() bool { return len(maps.Informer().GetStore().List()) == len(all.Items) })
}

func (t *tour) paging() {
	client := t.typed.CoreV1().ConfigMaps(t.ns)
	for i := range 25 {
		_, err := client.Create(t.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("page-%02d", i), Labels: map[string]string{"page": "yes"}}}, metav1.CreateOptions{})
		must(err)
	}
	pages, count := 0, 0
	lister := pager.New(func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		pages++
		return client.List(ctx, options)
	})
	lister.PageSize = 10
	must(lister.EachListItem(t.ctx, metav1.ListOptions{LabelSelector: "page=yes"}, func(runtime.Object) error { count++; return nil }))
	check("all pages", pages == 3 && count == 25)
	partial, err := t.meta.Resource(corev1.SchemeGroupVersion.WithResource("configmaps")).Namespace(t.ns).List(t.ctx, metav1.ListOptions{LabelSelector: "page in (yes)"})
	must(err)
	check("metadata only", len(partial.Items) == 25 && partial.Items[0].Name == "page-00")
	must(client.DeleteCollection(t.ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "page"}))
	left, err := client.List(t.ctx, metav1.ListOptions{LabelSelector: "page"})
	must(err)
	check("a deleted collection", len(left.Items) == 0)
}

const definition = `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"boats.go.example.com"},
"spec":{"group":"go.example.com","scope":"Namespaced","names":{"plural":"boats","kind":"Boat"},"versions":[{"name":"v1","served":true,"storage":true,
"subresources":{"status":{}},"selectableFields":[{"jsonPath":".spec.colour"}],
"schema":{"openAPIV3Schema":{"type":"object","properties":{
"spec":{"type":"object","properties":{"colour":{"type":"string"},"masts":{"type":"integer","minimum":1,"default":2}}},
"status":{"type":"object","properties":{"afloat":{"type":"boolean"}}}}}}}]}}`

func (t *tour) customResources() {
	var crd apiextensionsv1.CustomResourceDefinition
	must(json.Unmarshal([]byte(definition), &crd))
	definitions := t.crds.ApiextensionsV1().CustomResourceDefinitions()
	_, err := definitions.Create(t.ctx, &crd, metav1.CreateOptions{})
	must(err)
	defer definitions.Delete(t.ctx, crd.Name, metav1.DeleteOptions{})
	eventually("the definition is established", func() bool {
		stored, err := definitions.Get(t.ctx, crd.Name, metav1.GetOptions{})
		must(err)
		for _, condition := range stored.Status.Conditions {
			if condition.Type == apiextensionsv1.Established && condition.Status == apiextensionsv1.ConditionTrue {
				return true
			}
		}
		return false
	})
	resource := schema.GroupVersionResource{Group: "go.example.com", Version: "v1", Resource: "boats"}
	stop := make(chan struct{})
	defer close(stop)
	factory := dynamicinformer.NewFilteredDynamicSharedInformerFactory(t.dynamic, 0, t.ns, nil)
	informer := factory.ForResource(resource).Informer()
	factory.Start(stop)
	check("the cache of boats fills", cache.WaitForCacheSync(stop, informer.HasSynced))
	boats := t.dynamic.Resource(resource).Namespace(t.ns)
	boat := func(name, colour string) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "go.example.com/v1", "kind": "Boat",
			"metadata": map[string]any{"name": name}, "spec": map[string]any{"colour": colour, "unknown": "dropped"}}}
	}
	made, err := boats.Create(t.ctx, boat("red", "red"), metav1.CreateOptions{})
	must(err)
	masts, _, _ := unstructured.NestedInt64(made.Object, "spec", "masts")
	_, kept, _ := unstructured.NestedString(made.Object, "spec", "unknown")
	check("defaulted and pruned", masts == 2 && !kept)
	_, err = boats.Create(t.ctx, boat("blue", "blue"), metav1.CreateOptions{})
	must(err)
	found, err := boats.List(t.ctx, metav1.ListOptions{FieldSelector: "spec.colour=blue"})
	must(err)
	check("selected by a field", len(found.Items) == 1 && found.Items[0].GetName() == "blue")
	_, err = boats.Patch(t.ctx, "red", types.MergePatchType, []byte(`{"spec":{"masts":0}}`), metav1.PatchOptions{})
	check("a patch against the schema", apierrors.IsInvalid(err))
	patched, err := boats.Patch(t.ctx, "red", types.MergePatchType, []byte(`{"status":{"afloat":true}}`), metav1.PatchOptions{}, "status")
	must(err)
	check("generation stays with a status", patched.GetGeneration() == 1)
	applied, err := boats.Apply(t.ctx, "red", boatConfig("red", 3), metav1.ApplyOptions{FieldManager: "tour", Force: true})
	must(err)
	check("generation grows with a spec", applied.GetGeneration() == 2)
	eventually("the informer has both", func() bool { return len(informer.GetStore().List()) == 2 })
}

func boatConfig(name string, masts int64) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "go.example.com/v1", "kind": "Boat",
		"metadata": map[string]any{"name": name}, "spec": map[string]any{"masts": masts}}}
}

func (t *tour) leaderElection() {
	lock := &resourcelock.LeaseLock{LeaseMeta: metav1.ObjectMeta{Name: "tour", Namespace: t.ns}, Client: t.typed.CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: "tour"}}
	ctx, cancel := context.WithTimeout(t.ctx, patience)
	defer cancel()
	led := false
	leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{Lock: lock, LeaseDuration: 5 * time.Second,
		RenewDeadline: 3 * time.Second, RetryPeriod: 500 * time.Millisecond, ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) { led = true; cancel() },
			OnStoppedLeading: func() {}}})
	check("leads", led)
}

func (t *tour) deletion() {
	deployments := t.typed.AppsV1().Deployments(t.ns)
	foreground := metav1.DeletePropagationForeground
	must(deployments.Delete(t.ctx, "web", metav1.DeleteOptions{PropagationPolicy: &foreground}))
	eventually("the deployment and what it owns are gone", func() bool {
		_, err := deployments.Get(t.ctx, "web", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	must(t.typed.CoreV1().Namespaces().Delete(t.ctx, t.ns, metav1.DeleteOptions{}))
	eventually("the namespace is gone", func() bool {
		_, err := t.typed.CoreV1().Namespaces().Get(t.ctx, t.ns, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}
