import java.net.HttpURLConnection;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

/** One GET by each of Java's own clients, with the sealed token in KEY. Usage: Get.java http-client|url-connection. */
public class Get {
    private static final URI URL = URI.create("https://api.example.com/v1/items");
    private static final String BEARER = "Bearer " + System.getenv("KEY");

    public static void main(String[] arguments) throws Exception {
        System.out.println(arguments[0].equals("http-client") ? byHttpClient() : byUrlConnection());
    }

    private static String byHttpClient() throws Exception {
        HttpRequest request = HttpRequest.newBuilder(URL).header("Authorization", BEARER).build();
        HttpResponse<String> answer = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
        return answer.version() + " " + answer.body();
    }

    private static String byUrlConnection() throws Exception {
        HttpURLConnection connection = (HttpURLConnection) URL.toURL().openConnection();
        connection.setRequestProperty("Authorization", BEARER);
        return new String(connection.getInputStream().readAllBytes());
    }
}
